"""A volume group of LVM as a place that keeps images: one logical volume for each.

`metadata` reads what is there from the devices themselves; `commands` is the one place that changes
anything; `store` puts both behind `VolumeStore`.
"""

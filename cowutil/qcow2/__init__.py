"""QCOW2: headers, tables, data and check natively; changes of tables through qemu-img."""

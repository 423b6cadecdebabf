"""A storage manager: storage repositories, virtual disks, and the chains of images behind them."""

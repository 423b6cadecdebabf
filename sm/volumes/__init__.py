"""Where images live: volumes of an SR by UUID and format, and the records that stay with them."""

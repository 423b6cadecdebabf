"""The SMAPI wire: XML-RPC in and out, requests, driver information. No storage in here."""

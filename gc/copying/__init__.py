"""How a copy goes: in the background, limited, told to stop, taken up again, compared."""

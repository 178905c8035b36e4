"""Programs' inner parts that own sockets: they give wire/ and network/ the packets those decide on."""

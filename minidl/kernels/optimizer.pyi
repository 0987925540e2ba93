KINDS: dict[str, int]  # the number of each optimizer, by the name of its class

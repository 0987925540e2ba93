KINDS: dict[str, int]  # the number of each loss, by the name of its class

"""SplitMix64 with a second key on Python's whole numbers: the oracle of keyed masks."""


def splitmix64(counter: int, first: int, second: int) -> int:
    """64 bits of a counter under two signed 64-bit keys, as ``families.keyed.draw`` gives them."""
    mask = (1 << 64) - 1
    z = (counter * 0x9E3779B97F4A7C15 + first) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z ^= second & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)

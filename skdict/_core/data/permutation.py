"""A permutation of many numbers that needs no memory: its entries are computed when asked for."""

import numpy as np

ROUNDS = 8
MASK = (1 << 64) - 1


class Permutation:
    """A pseudorandom permutation of 0, …, n - 1: a Feistel network with cycle walking.

    A number of `bits` bits is cut into two parts, and each round changes one part by a hash of the
    other, which can be undone (Luby and Rackoff, "How to construct pseudorandom permutations",
    SIAM Journal on Computing 1988). A result that is not less than n goes through once more (Black
    and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002); fewer than half do.

    Parameters
    ----------
    n : int
        At least 1.
    seed : int
        Of up to 64 bits.
    """

    def __init__(self, n, seed):
        self.n = n
        bits = max(2, (n - 1).bit_length())
        low_bits = bits // 2
        self._low_bits = np.uint64(low_bits)
        self._low = np.uint64((1 << low_bits) - 1)
        self._high = np.uint64((1 << (bits - low_bits)) - 1)
        self._keys = [np.uint64(mixed(seed, i)) for i in range(ROUNDS)]

    def __call__(self, places):
        """The numbers at places: int64 arrays of the same shape."""
        return self._walk(places, self._keys, backward=False)

    def inverse(self, numbers):
        """The places of numbers: int64 arrays of the same shape."""
        return self._walk(numbers, self._keys[::-1], backward=True)

    def _walk(self, numbers, keys, *, backward):
        numbers = np.array(numbers, dtype=np.uint64)
        todo = np.ones(numbers.shape, dtype=bool)
        while todo.any():
            numbers[todo] = self._rounds(numbers[todo], keys, backward)
            todo = numbers >= np.uint64(self.n)
        return numbers.astype(np.int64)

    def _rounds(self, numbers, keys, backward):
        low, high = numbers & self._low, numbers >> self._low_bits
        for i, key in enumerate(keys):
            if (i % 2 == 0) != backward:  # an even number of rounds: backward begins with `high`
                low = low ^ (_hash(high + key) & self._low)
            else:
                high = high ^ (_hash(low + key) & self._high)
        return high << self._low_bits | low


def mixed(seed, number):
    """A seed of 64 bits that follows from a seed and a number, and tells nothing of either."""
    return int(_hash(np.array([(seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK], np.uint64))[0])


def _hash(x):
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of an array of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

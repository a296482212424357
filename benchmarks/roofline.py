"""The time that a case takes at least on a device: its costs over the device's measured rates."""

FLOAT32 = 4  # bytes, of all records


def bound(family, shape, n_grads, rates):
    """A lower bound of the time of one call, and what sets it.

    The costs are those of ``case.Family``, which no method avoids that works as it says, each over
    the rate that the device reached when it did nothing else: a kernel that overlaps them all needs
    the longest of these times. Two things may beat it. Inputs that lie in a cache come faster than
    a copy brings them: on a CPU, where nothing empties the cache before a call, this may be. And a
    radix sort compares nothing.

    Args:
        family: a ``case.Family``.
        shape: one of its shapes.
        n_grads: number of gradients.
        rates: ``rates.Rates`` of the device.

    Returns:
        Milliseconds, and "bytes", "products", "exponentials" or "comparisons".
    """
    seconds = {
        "bytes": family.bytes(shape, n_grads, FLOAT32) / rates.copied,
        "products": family.flops(shape, n_grads) / float32_products(rates.products),
        "exponentials": family.exponentials(shape, n_grads) / rates.exponentials,
        "comparisons": family.comparisons(shape, n_grads) / rates.comparisons,
    }
    by = max(seconds, key=seconds.get)
    return 1e3 * seconds[by], by


def float32_products(products):
    """The fastest measured way to a product with the digits of float32, in operations a second.

    TF32 and float16 keep 11 bits of a number. So a float32 of 24 is split into a high and a low
    part, and a product of two such sums takes three of their products; that of both low parts is
    below the last digit. bfloat16 keeps 8 and would need six.
    """
    split = [products[name] / 3 for name in ("tf32", "float16") if name in products]
    return max([products["float32"], *split])

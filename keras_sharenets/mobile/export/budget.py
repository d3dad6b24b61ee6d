"""Which calls to write out in full where a file may have so many bytes: those that gain most time for a byte."""

import math

from keras_sharenets.mobile.graph.own_kernels import is_clustered

_BYTES = {None: 4, "float16": 2, "int8": 1}
# The bytes of an operator without its kernel, as records and vectors: what writing out a layer of HGCNet was seen to
# save for each operator that goes. Some operations are several operators.
_RECORDS = {None: 126, "float16": 155, "int8": 145}
_OPERATORS = {"permute": 3, "shared_conv": 4, "stack": 3}
# Time in proportion: a product of a convolution, and a number that is moved, scaled or added. Estimates, not measured
# operation by operation; what they pick agreed with latencies of HSC, HGC and IGC networks in LiteRT on one server.
_PRODUCT = {None: 1 / 30, "float16": 1 / 30, "int8": 1 / 120}
_MOVE = {None: 1.0, "float16": 1.0, "int8": 0.7}


def faster_written_out(form, quantization):
    """The calls that are faster with a kernel of their own, written out; those first that gain most for a byte.

    Args:
        form: function that makes the inference graph from a predicate of calls, `(layer's name, use)`: which are
            written out.
        quantization: `None`, `"float16"` or `"int8"`.

    Returns:
        A list of calls.
    """
    return _ordered(_gains(form, quantization))


def free_written_out(form, quantization):
    """The calls that are faster written out and take no more bytes so: one large operator instead of many small ones.

    Arguments and result as in [`faster_written_out`], which begins with them. A layer that has been clustered is not
    one of them: what it stores compresses well.
    """
    gains = _gains(form, quantization)
    return [site for site in _ordered(gains) if gains[site] == math.inf]


def _gains(form, quantization):
    """`{call: time gained for a byte}` of the calls that are faster written out, infinite for those that are free."""
    stored, written_out = (form(lambda site, out=out: out) for out in (False, True))
    clustered = {operation.site for operation in stored.operations if operation.kernel and is_clustered(operation)}
    before, after = _costs(stored, quantization, False), _costs(written_out, quantization, True)
    gains = {}
    for site, (seconds, size) in after.items():
        slower, smaller = before.get(site, (0.0, 0))
        if slower > seconds:
            free = size <= smaller and site not in clustered
            gains[site] = math.inf if free else (slower - seconds) / max(size - smaller, 1)
    return gains


def _ordered(gains):
    return sorted(gains, key=lambda site: (-gains[site], site))


def fill(form, size, max_bytes, quantization):
    """The calls to write out in the fastest file that fits, those first that gain most.

    Args:
        form, quantization: as in [`faster_written_out`].
        size: function that gives the bytes of the file for such a predicate.
        max_bytes: int.

    Returns:
        A tuple of calls, those that are free if nothing more fits. A larger budget gives more behind the same.
    """
    gains = _gains(form, quantization)
    order = _ordered(gains)
    # All at once can be smaller than most of them: what is written out everywhere can be merged with its neighbours.
    if size(frozenset(order).__contains__) <= max_bytes:
        return tuple(order)
    fits, too_many = sum(gain == math.inf for gain in gains.values()), len(order) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if size(frozenset(order[:middle]).__contains__) <= max_bytes:
            fits = middle
        else:
            too_many = middle
    return tuple(order[:fits])


def _costs(graph, quantization, written_out):
    """`{call: (time, bytes)}`.

    Written out, each call is charged for its kernel. Else none is for a kernel that several calls use: it stays for the
    others.
    """
    sites = {kernel: {operation.site for operation in users} for kernel, users in graph.uses().items()}
    costs, seen = {}, set()
    for operation in graph.operations:
        seconds, size = costs.get(operation.site, (0.0, 0))
        size += _OPERATORS.get(operation.kind, 1) * _RECORDS[quantization]
        numbers = math.prod(operation.output.shape)
        if operation.kernel is not None:
            products = numbers * operation.kernel.array.size // operation.kernel.array.shape[-1]
            seconds += products * _PRODUCT[quantization]
            if operation.kind == "shared_conv":  # Its repeats are folded into the batch, and back.
                seconds += 2 * numbers * _MOVE[quantization]
            charged = written_out or len(sites[operation.kernel]) == 1
            if charged and (operation.site, operation.kernel) not in seen:
                size += operation.kernel.array.size * _BYTES[quantization]
                seen.add((operation.site, operation.kernel))
        else:
            seconds += numbers * _MOVE[quantization]
        costs[operation.site] = seconds, size
    return costs

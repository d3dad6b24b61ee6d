"""Which operators of a TFLite file the runtime hands to its delegates."""

import collections


def delegated(interpreter):
    """How a graph is cut between delegates and the runtime's own operators.

    Args:
        interpreter: of LiteRT, with its tensors allocated.

    Returns:
        `(number of delegates, {name of an operator outside of them: how often})`.
    """
    # The runtime keeps the operators that a delegate replaces in its list, and says of the delegate, which comes last,
    # only what goes in and what comes out: what lies between is inside.
    operators = interpreter._get_ops_details()
    delegates = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    own = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    producers = {output: operator for operator in own for output in operator["outputs"].tolist()}
    inside = set()
    for delegate in delegates:
        known, open_ends = set(delegate["inputs"].tolist()), delegate["outputs"].tolist()
        while open_ends:
            tensor = open_ends.pop()
            if tensor in producers and tensor not in known:
                known.add(tensor)
                inside.add(producers[tensor]["index"])
                open_ends += producers[tensor]["inputs"].tolist()
    outside = (operator["op_name"] for operator in own if operator["index"] not in inside)
    return len(delegates), dict(collections.Counter(outside).most_common())

"""Run graphs in ComfyUI's API format by the rules that it documents.

docs.comfy.org/custom-nodes/backend (data types, lists, execution control), and `execution.py` of the commit
that stand_ins.py names. A graph is checked before anything runs: every node exists, every required input is
there, types that are linked agree, numbers and names are within what a widget allows. A node runs once for
each entry of the longest list among its inputs, of shorter ones the last entry counts again; an output that
says OUTPUT_IS_LIST is a list of such entries. Everything runs in inference mode.
"""

from typing import Any

import torch

from tests.comfyui.stand_ins import ExecutionBlocker

CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


class InvalidGraph(Exception):
    """What ComfyUI answers with status 400."""


def is_link(value: Any) -> bool:
    return isinstance(value, list)


def accepts(received: str, wanted: Any) -> bool:
    """Types may be unions, "A,B"; any in common is enough."""
    if not isinstance(wanted, str):
        return False
    return received == wanted or bool(set(received.split(",")) & set(wanted.split(",")))


class Executor:
    """Runs graphs one after the other; what did not change is not run again."""

    def __init__(self, nodes: dict[str, type], before=lambda: None):
        self.nodes = nodes
        self.before = before  # called before each node, as ComfyUI looks whether it is to stop
        self.cache: dict[Any, list[Any]] = {}
        self.blocked: list[str] = []
        self.ran: list[str] = []

    def check(self, graph: dict[str, Any]) -> list[str]:
        """The output nodes of a graph; raise `InvalidGraph` for one that ComfyUI would refuse."""
        for key, node in graph.items():
            if node["class_type"] not in self.nodes:
                raise InvalidGraph(f"node {node['class_type']} does not exist")
            self._check_node(graph, key)
        ends = [k for k, n in graph.items() if getattr(self.nodes[n["class_type"]], "OUTPUT_NODE", False)]
        if not ends:
            raise InvalidGraph("Prompt has no outputs")
        return ends

    def _check_node(self, graph, key):
        kind = self.nodes[graph[key]["class_type"]]
        inputs = graph[key]["inputs"]
        sockets = kind.INPUT_TYPES()
        if missing := [name for name in sockets["required"] if name not in inputs]:
            raise InvalidGraph(f"Required input is missing: {missing[0]} of {graph[key]['class_type']}")
        for name, (wanted, *rest) in {**sockets["required"], **sockets.get("optional", {})}.items():
            if name not in inputs:
                continue
            value, options = inputs[name], rest[0] if rest else {}
            if is_link(value):
                source = self.nodes[graph[value[0]]["class_type"]]
                received = source.RETURN_TYPES[value[1]]
                if not accepts(received, wanted):
                    raise InvalidGraph(f"{name}, received_type({received}) mismatch input_type({wanted})")
            else:
                inputs[name] = self._checked(name, value, wanted, options)

    def _checked(self, name, value, wanted, options):
        if isinstance(wanted, list) and value not in wanted:
            raise InvalidGraph(f"Value not in list: {name}: {value!r} not in {wanted}")
        value = CONVERSIONS.get(wanted, lambda same: same)(value) if isinstance(wanted, str) else value
        if "min" in options and value < options["min"]:
            raise InvalidGraph(f"Value {value} smaller than min of {options['min']}: {name}")
        if "max" in options and value > options["max"]:
            raise InvalidGraph(f"Value {value} bigger than max of {options['max']}: {name}")
        return value

    def run(self, graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What output nodes show, by node."""
        ends = self.check(graph)
        self.blocked, self.ran, self.shown = [], [], {}
        with torch.inference_mode():
            for key in ends:
                self._outputs(graph, key)
        return self.shown

    def values(self, graph: dict[str, Any], key: str, output: int = 0) -> list[Any]:
        """The list of entries that one output of a node that ran holds."""
        return self.cache[self._signature(graph, key)][output]

    def _signature(self, graph, key):
        node = graph[key]
        inputs = []
        for name, value in sorted(node["inputs"].items()):
            inputs.append((name, (self._signature(graph, value[0]), value[1]) if is_link(value) else value))
        return node["class_type"], tuple(inputs)

    def _outputs(self, graph, key):
        signature = self._signature(graph, key)
        if signature in self.cache:
            return self.cache[signature]
        node = graph[key]
        kind = self.nodes[node["class_type"]]
        known = {**kind.INPUT_TYPES()["required"], **kind.INPUT_TYPES().get("optional", {})}
        inputs = {}
        for name, value in node["inputs"].items():
            if is_link(value):
                inputs[name] = self._outputs(graph, value[0])[value[1]]
            elif name in known:
                inputs[name] = [value]
        results = self._mapped(kind, inputs, key)
        found = self._merged(kind, results)
        self.cache[signature] = found
        return found

    def _mapped(self, kind, inputs, key):
        results = []
        for index in range(max((len(values) for values in inputs.values()), default=1)):
            self.before()
            row = {name: values[min(index, len(values) - 1)] for name, values in inputs.items()}
            stopped = [value for value in row.values() if isinstance(value, ExecutionBlocker)]
            if stopped:
                if stopped[0].message is not None:
                    self.blocked.append(stopped[0].message)
                results.append(tuple([ExecutionBlocker(None)] * len(kind.RETURN_TYPES)))
                continue
            self.ran.append(key)
            result = getattr(kind(), kind.FUNCTION)(**row)
            if isinstance(result, dict):
                shown = self.shown.setdefault(key, {})
                for name, entries in result["ui"].items():
                    shown[name] = [*shown.get(name, []), *entries]
                result = result.get("result", ())
            assert len(result) == len(kind.RETURN_TYPES), f"{kind.__name__} returns {len(result)} outputs"
            results.append(result)
        return results

    def _merged(self, kind, results):
        lists = getattr(kind, "OUTPUT_IS_LIST", [False] * len(kind.RETURN_TYPES))
        assert len(lists) == len(kind.RETURN_TYPES)
        found = []
        for place, is_list in enumerate(lists):
            values = []
            for result in results:
                entry = result[place]
                if is_list and not isinstance(entry, ExecutionBlocker):
                    values.extend(entry)
                else:
                    values.append(entry)
            found.append(values)
        return found

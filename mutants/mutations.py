"""The mutants of a module: operators of cosmic-ray, and calls left out; without those that no test could see."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

# Of each kind the ones nearest to what people get wrong; replacing + by << tells nothing more than replacing it by -.
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul", "BitAnd_BitOr",
        "BitOr_BitAnd", "LShift_RShift", "RShift_LShift",
    )),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt",
        "Is_IsNot", "IsNot_Is",
    )),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("Delete_Not", "Delete_USub", "Delete_Invert")),
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop",
)  # fmt: skip


class LeaveOutCall(Operator):
    """A statement that is nothing but a call becomes `pass`: checks, writes, flushes."""

    def mutation_positions(self, node):
        """Where such a statement stands."""
        call = (
            node.type == "atom_expr" and node.parent is not None and node.parent.type in ("simple_stmt", "file_input")
        )
        if call and node.children[-1].type == "trailer" and node.children[-1].children[0] == "(":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        """`pass` in its place."""
        return parso.python.tree.Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls):
        """None: not a plugin."""
        return ()


@dataclass(frozen=True)
class Mutant:
    """One changed line of one module."""

    module: str
    line: int
    operator: str
    before: str
    after: str
    source: str

    @property
    def words(self) -> str:
        """How survivors.md names it: no line numbers, which move."""
        return f"{self.module}: `{self.before}` -> `{self.after}`"


@dataclass(frozen=True)
class Place:
    """Where one operator can change one module: cheap to find, made into a mutant only when it is drawn."""

    module: str
    begin: tuple[int, int]
    operator: str
    occurrence: int


def _operator(name: str) -> Operator:
    return LeaveOutCall() if name == "LeaveOutCall" else get_operator(f"core/{name}")()


def places_of(path: Path, module: str) -> list[Place]:
    """Every place in a file, in the order of lines."""
    source = path.read_text()
    silent, nodes, found = _silent(source) + _marks(source), list(ast_nodes(get_ast(source))), []
    for name in (*OPERATORS, "LeaveOutCall"):
        operator = _operator(name)
        spans = [span for node in nodes for span in operator.mutation_positions(node)]
        found += [
            Place(module, begin, name, occurrence)
            for occurrence, (begin, end) in enumerate(spans)
            if not any(first <= begin and end <= last for first, last in silent)
        ]
    return sorted(found, key=lambda place: (place.begin, place.operator, place.occurrence))


def _marks(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Begin and end of each bare * between parameters, which cosmic-ray takes for a product."""
    return [
        ((row, column), (row, column + 1))
        for row, line in enumerate(source.splitlines(), 1)
        for column in (found.start() for found in re.finditer(r"\*(?=,)", line))
    ]


def mutant_at(path: Path, place: Place) -> Mutant | None:
    """The mutant; None where it is the same program, or none."""
    source = path.read_text()
    changed = mutate_code(source, _operator(place.operator), place.occurrence)
    return None if changed is None else _mutant(place.module, place.operator, source, changed)


def _mutant(module: str, operator: str, source: str, changed: str) -> Mutant | None:
    try:
        if ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source)):
            return None
    except SyntaxError:
        return None
    old, new = source.splitlines(), changed.splitlines()
    first = next(i for i, (a, b) in enumerate(zip([*old, ""], [*new, ""], strict=False)) if a != b)
    return Mutant(module, first + 1, operator, old[first].strip(), new[first].strip(), changed)


def _silent(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Begin and end of what nobody runs or people only read: annotations, the words of an error, sizes of caches."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST | None] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = (
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            )
            parts = [node.returns, *(a.annotation for a in arguments if a), *node.decorator_list]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.annotation]
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("lru_cache", "register"))
        ):
            parts = [node]
        elif isinstance(node, ast.Assert):
            parts = [node]  # told to type checkers
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            parts = [node]  # of zip: an error where lengths differ, which they never should
        spans += [((p.lineno, p.col_offset), (p.end_lineno, p.end_col_offset)) for p in parts if p]
    return spans

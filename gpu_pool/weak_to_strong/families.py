"""Idea families of a method, read from its source text by code features.

The families are those by which the published experiment measured diversity. Only code counts: comments, docstrings and
unused imports don't, so a method cannot claim a family that it doesn't use. Needs no torch and runs nothing.
"""

from __future__ import annotations

import ast
import re

FAMILIES = (
    "self-training",
    "ensemble",
    "distillation",
    "data filtering",
    "confidence weighting",
    "loss",
    "UE",
    "curriculum",
    "model internal",
    "evolutionary",
    "other",
)

# Names that the code uses: variables, attributes, functions, keyword arguments, words of string constants.
_PATTERNS: dict[str, re.Pattern[str]] = {
    "self-training": re.compile(
        r"self_?train|relabel|cross_?fit|em_posterior|noisy_channel|pseudo|born_?again|bootstrap|co_?teach"
    ),
    "ensemble": re.compile(r"ensemble|bagg|committee|majority|out_of_bag|interpolate|pool_teachers|unanimous"),
    "distillation": re.compile(r"distil|teacher_student|temperature"),
    "data filtering": re.compile(
        r"agreement|^confident$|filter|small_loss|drop_share|^keep$|select|overlap|_threshold$|co_?teach"
    ),
    "confidence weighting": re.compile(r"confidence_weights|^weights$|sample_weight|reweight"),
    "loss": re.compile(r"^losses$|logconf|^gce$|reverse_kl|smooth|^loss_fn$|_loss$|entropy|^elr$|early_learning"),
    "UE": re.compile(r"^prior$|zero_?shot|few_?shot|mix_prior|template_prior|unsupervised|^ccs$|^icm$"),
    "curriculum": re.compile(r"curricul|easy|anneal|pacing|shortest_code|description_length|loss_drop"),
    "model internal": re.compile(
        r"probe|^hidden$|activation|^top:\d+$|^head$|svd|pca|principal|run_layers|steer|^ccs$|contrast|mean_difference"
    ),
    "evolutionary": re.compile(r"evol|mutat|fitness|population|crossover|genetic"),
}


def families_of_source(source: str) -> list[str]:
    """Families in the order of `FAMILIES`; `["other"]` when no feature is known or the text is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ["other"]
    names = _used_names(tree)
    found = [family for family in FAMILIES[:-1] if any(_PATTERNS[family].search(name) for name in names)]
    if _distils_probe(tree) and "distillation" not in found:
        found = [f for f in FAMILIES if f in found or f == "distillation"]
    return found or ["other"]


def _used_names(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    docstrings = {id(text) for node in ast.walk(tree) if (text := _docstring(node)) is not None}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.keyword) and node.arg is not None:
            names.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            names.add(node.value[:40])
    return {name.lower() for name in names}


def _docstring(node: ast.AST) -> ast.Constant | None:
    if not isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) or not node.body:
        return None
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first.value
    return None


def _distils_probe(tree: ast.AST) -> bool:
    """Whether the probabilities of a probe become labels of something else: a call `.probs(run.hidden)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "probs":
            return any(isinstance(arg, ast.Attribute) and arg.attr == "hidden" for arg in node.args)
    return False

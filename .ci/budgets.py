"""Prints the lines of code per folder, and fails if there are too many.

Lines are counted as `wc -l` does, docstrings included. The length of a function leaves
out its docstring.
"""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The budgets are 8,000 and 9,000 lines: lower the limits as the code shrinks.
LIMITS = {("zoo", "callbacks"): 11_537, ("tests",): 12_301}
FILE_LINES, FUNCTION_LINES = 400, 60


def python_files(folder: str) -> list[pathlib.Path]:
    """Lists the modules of a folder; `zoo/callbacks` is a link, and left out."""
    return [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ROOT / "zoo" / "callbacks" not in path.parents
    ]


def count_lines(path: pathlib.Path) -> int:
    return path.read_text("utf-8").count("\n")


def long_functions(path: pathlib.Path) -> list[str]:
    """Names the functions of a module that are too long."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > FUNCTION_LINES:
                found.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    return found


def main() -> int:
    problems = []
    for folders, limit in LIMITS.items():
        files = [path for folder in folders for path in python_files(folder)]
        parts: dict[str, int] = {}
        for path in files:
            part = path.parent.relative_to(ROOT).as_posix()
            parts[part] = parts.get(part, 0) + count_lines(path)
            if count_lines(path) > FILE_LINES:
                problems.append(
                    f"{path.relative_to(ROOT)} has {count_lines(path)} lines"
                )
        for part, lines in parts.items():
            print(f"{lines:6,}  {part}")
        total = sum(parts.values())
        print(f"{total:6,}  {' and '.join(folders)} together, at most {limit:,}\n")
        if total > limit:
            problems.append(f"{' and '.join(folders)} have {total:,} lines")
    # The budget of a function is for what is shipped.
    problems += [
        problem
        for folder in ("zoo", "callbacks")
        for path in python_files(folder)
        for problem in long_functions(path)
    ]
    for problem in problems:
        print(f"too long: {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

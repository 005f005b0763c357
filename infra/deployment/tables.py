"""Puts a generated table into a page: `make tables` runs this for each, and tests compare.

`… | python -m infra.deployment.tables iam docs/security.md` replaces what stands between
`<!-- table: iam -->` and `<!-- end of table -->`.
"""

import re
import sys
from pathlib import Path


def between(name: str) -> re.Pattern[str]:
    """Return what finds a table in a page; its second group is the table."""
    return re.compile(rf"(<!-- table: {name} -->\n)(.*?)(\n<!-- end of table -->)", re.DOTALL)


def table_in(page: str, name: str) -> str:
    """Return the table of that name in a page.

    Raises:
        LookupError: there is none.
    """
    found = between(name).search(page)
    if found is None:
        raise LookupError(f"no line says <!-- table: {name} -->, or no later one <!-- end of table -->")
    return found[2]


def main() -> None:
    """Run the command."""
    name, path = sys.argv[1], Path(sys.argv[2])
    table, page = sys.stdin.read().strip(), path.read_text()
    if not table.startswith("|"):
        raise SystemExit(f"there is no table {name} to put into {path}: see above for why")
    table_in(page, name)
    path.write_text(between(name).sub(lambda found: f"{found[1]}{table}{found[3]}", page))


if __name__ == "__main__":
    main()

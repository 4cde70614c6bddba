"""Tables in Markdown, as `gpu_table.py` and `peer_table.py` print them."""


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "--:|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def shown(value, decimals=2, missing="not run"):
    return missing if value is None else f"{value:.{decimals}f}"

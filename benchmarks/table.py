"""Text for people from the records of one case."""


def heading(facts):
    """One line on what runs where."""
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    tree = f"commit {(facts['commit'] or 'unknown')[:10]}{', edited' * bool(facts['dirty'])}"
    return f"{facts['device_name']}, {threads}, torch {facts['torch']}, {tree}"


def of_case(case, lines, red):
    """A case as a table: a row for each provider and clock, then what is missing or wrong."""
    rows = [f"\n{case.name}  ({case.shape.reason})"]
    rows.append(
        f"  {'provider':14} {'clock':6} {'ms p50':>10} {'p20':>10} {'p80':>10} {'x ours':>7}"
        f" {'roofline':>8} {'err value':>10} {'err grad':>10} {'peak MB':>8} {'calls':>6}"
    )
    ours = {line["clock"]: line["ms_p50"] for line in lines if line["provider"] == "otkernels"}
    for line in lines:
        if line["missing"] is None:
            rows.append(_row(line, ours.get(line["clock"])))
    rows += [
        f"  {line['provider']:14} {line['clock'] or '':6} not run: {line['missing']}"
        for line in lines
        if line["missing"] is not None
    ]
    rows += [
        f"  {name:14} WRONG, not timed: value error {e.value:.1e} (bound {e.bound_value:.1e}), "
        f"gradient error {number(e.grad_excess)} (bound {number(e.bound_grad)})"
        for name, e in red.items()
    ]
    return "\n".join(rows)


def number(x, form=".1e"):
    """A number, or a dash where there is none."""
    return "-" if x is None else format(x, form)


def _row(line, ours):
    peak = line["peak_bytes"]
    ratio = line["ms_p50"] / ours if ours else None
    return (
        f"  {line['provider']:14} {line['clock']:6} {line['ms_p50']:10.3f} {line['ms_p20']:10.3f}"
        f" {line['ms_p80']:10.3f} {number(ratio, '.2f'):>7} {number(line['fraction'], '.1%'):>8}"
        f" {number(line['error_value']):>10} {number(line['error_grad']):>10}"
        f" {number(peak and peak / 1e6, '.1f'):>8} {line['repetitions']:6}"
    )

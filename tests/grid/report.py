# SPDX-License-Identifier: Apache-2.0
"""Rows of the grid as a table in markdown. Pure."""
import statistics


def line(row):
    """One row for whoever watches."""
    name = (f"fault {row['fault']} {row['kind']}/{row['phase']}" if "fault" in row else
            f"linux {row['linux']}" if "linux" in row else f"cell {row['cell']}")
    if "error" in row:
        return f"{name}: error: {row['error']}"
    level = row["kept_level"]
    return (f"{name}: {row['mbit']} Mbit/s, {row['populated_mib']} MiB, {row['dirty_mib_s']} MiB/s in {row['area_mib']}: {row['answer']}, "
            f"{row['verdict']}; time {row.get('time_ms')} of {level.get('total_ms')} ({expected(row, 'total_ms')}), "
            f"downtime {row['downtime_ms']} of {level.get('downtime_ms')} ({expected(row, 'downtime_ms')}), "
            f"attempts {row['said'].get('attempt')}, late {row.get('late_ms')}{' DISTURBED' if row['disturbed'] else ''}"
            f"{' WRONG ' + str(row['wrong']) if row['wrong'] else ''}")


def last_of(rows, what):
    """For each cell the row that counts: the last one that was not disturbed, else the last one."""
    found = {}
    for row in rows:
        if what not in row or "error" in row:
            continue
        old = found.get(row[what])
        if old is None or old["disturbed"] or not row["disturbed"]:
            found[row[what]] = row
    return [found[k] for k in sorted(found)]


def percentile(values, p):
    """The smallest value that so many percent do not exceed."""
    values = sorted(values)
    return values[min(len(values) - 1, max(0, -(-len(values) * p // 100) - 1))]


def spread(values):
    return f"{statistics.median(values):.1f} % / {percentile(values, 95):.1f} % (n={len(values)})" if values else "-"


def expected(row, key):
    """p50 of the plan; of an offer that was taken, of the offer. None where nothing was expected."""
    if row["answer"] == "countered":
        return row["offers"][0].get(key.replace("_ms", "_p50_ms"))
    return row.get("plan", {}).get(key, {}).get("p50")


FITTED = 40  # cells that were looked at while the model was made: what comes after them has only been predicted


def errors(rows, key, measured, condition=lambda row: True):
    """Of what was expected, with all that is free of the link, in percent of what was measured."""
    return [abs(expected(r, key) - r[measured]) / r[measured] * 100 for r in rows
            if r["state"] == "done" and r.get(measured) and expected(r, key) and condition(r)]


def accepted(rows):
    """Those whose level was accepted as it was asked for."""
    return [r for r in rows if r["answer"] not in ("countered", "refused")]


def taken(rows):
    """Those where another level was offered, asked for unchanged, and granted."""
    return [r for r in rows if r["answer"] == "countered" and r.get("granted")]


def overruns(row):
    """Times for which the guest stood longer than was agreed on, or for good; {where it ran then: how many}"""
    over = [s["there"] for s in row["stops"] if s["ms"] is None or s["ms"] > row["kept_level"].get("downtime_ms", 1e9)]
    return {there: over.count(there) for there in (False, True)}


def was_not_fitted(row):
    return row["cell"] >= FITTED


def within(rows, key, measured):
    some = [r for r in rows if r["state"] == "done" and r.get(measured) and key in r.get("plan", {})]
    return f"{sum(r[measured] <= r['plan'][key]['p90'] for r in some)} of {len(some)}"


def table(rows):
    return "\n".join(grid_table(rows) + linux_table(rows) + fault_table(rows))


def count(rows, verdict):
    return sum(r["verdict"] == verdict for r in rows)


def of_run(all_rows, rows, what, title):
    """How it was run: lines."""
    tried = [r for r in all_rows if what in r and "error" not in r]
    disturbed = sum(r["disturbed"] for r in rows)
    commits = sorted({r["commit"] for r in rows})
    return [f"{title} with a row: {len(rows)}; moves: {len(tried)}; commits: {', '.join(commits)}; errors of the harness: "
            f"{sum('error' in r for r in all_rows if what in r)}.",
            f"Disturbed to the last: {disturbed} ({disturbed / len(rows):.0%})" + ("; more than 5 %: THIS RUN IS INVALID" if disturbed > 0.05 * len(rows) else "") +
            f". The sentinel ran with {'/'.join(sorted({r.get('priority', '?') for r in rows}))} priority; an ordinary thread was late by "
            f"{statistics.median(r.get('ordinary_late_ms', 0) for r in rows):.0f} ms at the median of the moves' worst; load average "
            f"{min(r['load'] for r in rows)} to {max(r['load'] for r in rows)}.", ""]


def of_promise(all_rows, rows, what):
    """What was promised, and what became of it: lines."""
    as_asked, as_offered = accepted(rows), taken(rows)
    granted = as_asked + as_offered
    over = [r for r in granted if any(overruns(r).values())]
    silent = [r for r in granted if r["state"] == "done" and r.get("guest_stop_ms") and "downtime_ms" in r["kept_level"]]
    wrong = [r for r in all_rows if what in r and r.get("wrong")]  # those of moves that were disturbed, too
    out = ["| | asked for and accepted | countered, taken unchanged | together |", "|---|---|---|---|"]
    for name, of in (("moves", len), ("met", lambda s: count(s, "met")), ("missed", lambda s: count(s, "missed")),
                     ("broken off: by the guard", lambda s: count(s, "cut")), ("broken off: before it was missed, or otherwise", lambda s: count(s, "broken-off"))):
        out.append(f"| {name} | {of(as_asked)} | {of(as_offered)} | {of(granted)} |")
    kept = count(granted, "met")
    return out + ["", f"- refused: {count(rows, 'refused')}; countered: {sum(r['answer'] == 'countered' for r in rows)}, "
                  f"of which granted when asked for unchanged: {len(as_offered)}",
                  f"- accepted levels kept: {kept} of {len(granted)}" + (f" ({kept / len(granted):.1%}; aim 100 %)" if granted else ""),
                  f"- a guest that stood longer than its level, wherever it ran then: {len(over)} (aim 0)"
                  + "".join(f"; {what} {r[what]}: {max(s['ms'] or 0 for s in r['stops'])} of {r['kept_level']['downtime_ms']} ms" for r in over),
                  f"- moves, those that were disturbed included, with something wrong in the guest's memory, its runners or the ledgers: {len(wrong)} (aim 0)",
                  f"- by the guest's own clock: of {len(silent)} moves whose stop is in one of the guest's eight longest silences, {sum(r['guest_stop_ms'] <= r['kept_level']['downtime_ms'] for r in silent)} "
                  "have that within the level"
                  + "".join(f"; {what} {r[what]}: {r['guest_stop_ms']} of {r['kept_level']['downtime_ms']} ms" for r in silent if r["guest_stop_ms"] > r["kept_level"]["downtime_ms"])]


def answer_of(row):
    return row["answer"] if row["answer"] in ("countered", "refused") else "accepted"


def cells_of(row):
    """What is the same in the tables of all moves, from the working set on."""
    kept_to = row["kept_level"]
    return (f"{row['area_mib']} | {row['dirty_mib_s']} | {row['level'].get('total_ms')}, {row['level'].get('downtime_ms')} | "
            f"{answer_of(row)} | {kept_to.get('total_ms')}, {kept_to.get('downtime_ms')} | "
            f"{expected(row, 'total_ms')}, {expected(row, 'downtime_ms')} | {row.get('time_ms')}, {row['downtime_ms']} | {row.get('guest_stop_ms')}, {row.get('guest_gap_ms')} | "
            f"{row['said'].get('attempt')} | {row['verdict']}{' (disturbed)' if row['disturbed'] else ''}{' WRONG' if row['wrong'] else ''} |")


COLUMNS = "working set | MiB/s | asked: time, downtime ms | answer | kept to: time, downtime | expected: time, downtime | measured: time, downtime | guest silent: about its stop, ever | attempts | verdict |"


def head(*first):
    line_ = f"| {' | '.join(first)} | {COLUMNS}"
    return [line_, "|" + "---|" * (line_.count("|") - 1)]


def grid_table(all_rows):
    rows = last_of(all_rows, "cell")
    if not rows:
        return []
    granted = accepted(rows) + taken(rows)
    out = of_run(all_rows, rows, "cell", "Cells") + of_promise(all_rows, rows, "cell")
    out += [f"- error of the expected time, median / 95th percentile: {spread(errors(granted, 'total_ms', 'time_ms'))}; of cells from {FITTED} on, which nothing was "
            f"fitted with: {spread(errors(granted, 'total_ms', 'time_ms', was_not_fitted))} (aims 4 %, 12 %); not above p90: {within(granted, 'total_ms', 'time_ms')}",
            f"- error of the expected downtime: {spread(errors(granted, 'downtime_ms', 'downtime_ms'))}; of cells from {FITTED} on: "
            f"{spread(errors(granted, 'downtime_ms', 'downtime_ms', was_not_fitted))} (aim 10 % at the median); not above p90: {within(granted, 'downtime_ms', 'downtime_ms')}; "
            f"of downtimes of 50 ms and more: {spread(errors(granted, 'downtime_ms', 'downtime_ms', lambda r: r['downtime_ms'] >= 50))}", ""]
    out += head("cell", "Mbit/s", "MiB") + [f"| {r['cell']} | {r['mbit']} | {r['populated_mib']} | {cells_of(r)}" for r in rows]
    return out + [""]


def others_of(row):
    """Pages of Linux itself that differed from what they were at the source's stop."""
    return f"{row['others']['differ']} of {row['others']['pages']}" if row.get("others") else "-"


def linux_table(all_rows):
    rows = last_of(all_rows, "linux")
    if not rows:
        return []
    granted = accepted(rows) + taken(rows)
    out = of_run(all_rows, rows, "linux", "Linux guests") + of_promise(all_rows, rows, "linux")
    out += [f"- error of the expected {name}, median / 95th percentile, fitted with none of these: {spread(errors(granted, key, measured))} (aim {aim}); "
            f"not above p90: {within(granted, key, measured)}"
            for name, key, measured, aim in (("time", "total_ms", "time_ms", "4 %, 12 %"), ("downtime", "downtime_ms", "downtime_ms", "10 % at the median"))]
    out += ["", *head("linux", "Mbit/s", "MiB, of which its program's", "pages of Linux itself that differ", "wrote MiB/s before, of that while copied")]
    out += [f"| {r['linux']} | {r['mbit']} | {r['populated_mib']}, {r['filled_mib']} | {others_of(r)} | {r.get('wrote_mib_s')}, {r.get('speed')} | {cells_of(r)}" for r in rows]
    return out + [""]


def fault_table(all_rows):
    rows = last_of(all_rows, "fault")
    if not rows:
        return []
    out = [f"Faults: {len(rows)}; disturbed to the last: {sum(r['disturbed'] for r in rows)}.", "",
           "| fault | phase | n | while the guest stood | it went | it stayed | ran on at the source: how often, longest downtime, above the level | ran on at the destination: the same | anything wrong |", "|---|---|---|---|---|---|---|---|---|"]

    def stood(some, there):
        times = [(s["ms"] or 0, r["kept_level"]["downtime_ms"]) for r in some for s in r["stops"] if s["there"] == there]
        return f"{len(times)}, {max((t for t, _ in times), default=0)} ms, {sum(t > level for t, level in times)}"
    for kind, phase in sorted({(r["kind"], r["phase"]) for r in rows}):
        some = [r for r in rows if (r["kind"], r["phase"]) == (kind, phase)]
        went, stayed = [r for r in some if r["state"] == "done"], [r for r in some if r["state"] != "done"]
        out.append(f"| {kind} | {phase} | {len(some)} | {sum(r.get('hit', False) for r in some)} | {len(went)} | {len(stayed)} | {stood(some, False)} | {stood(some, True)} | {sum(bool(r['wrong']) for r in some)} |")
    return out + [""]

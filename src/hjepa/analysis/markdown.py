"""An analysis as Markdown, and as a few lines for the terminal."""

from __future__ import annotations

from typing import Any

from hjepa.analysis.wording import number, percent, time_text


def summary(result: dict[str, Any]) -> str:
    """The analysis in a few lines."""
    diagnosis = result["diagnosis"]
    lines = [f"{result['run']}: {_status(result)}", f"{diagnosis['headline']}: {diagnosis['meaning']}"]
    lines += [f"  - {text}" for text in diagnosis["evidence"]]
    knn = result["convergence"]["knn"]
    if knn is not None:
        lines.append(f"online k-NN {knn['last']:.1%}, best {knn['best']:.1%} at step {knn['best_step']}; {_trend(knn)}")
    fast = result["speed"]
    if fast is not None:
        shares = fast["shares"]
        lines.append(
            f"{fast['images_per_second']['median']:.0f} images/s; {shares['waiting_for_data']:.0%} of the time waiting for data, "
            f"{shares['evaluation']:.0%} in evaluation and health"
        )
    health = result["health"]
    if health["light"] is not None:
        lines.append(f"health {health['light']}" + "".join(f"; {s['text']}" for s in health["signs"][:1] if s["now"]))
    lines += [f"missing: {text}" for text in result["missing"]]
    lines += ["", result["recommendation"]["why"], f"  {result['recommendation']['command']}"]
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The analysis as a page."""
    diagnosis = result["diagnosis"]
    parts = [
        f"# Analysis of {result['name']}",
        f"`{result['run']}`: {_status(result)}.",
        "![Loss, k-NN, features, gradients and speed over the run](analysis.png)",
        f"## {diagnosis['headline']}",
        f"{diagnosis['meaning'][0].upper()}{diagnosis['meaning'][1:]}.",
        _bullets(diagnosis["evidence"]),
        "## Next",
        f"{result['recommendation']['why']}\n\n```bash\n{result['recommendation']['command']}\n```",
    ]
    if result["problems"]:
        parts += ["## Problems", _bullets([_problem(problem) for problem in result["problems"]])]
    parts += ["## Convergence", _convergence(result)]
    if result["terms"]:
        parts += ["## Terms of the loss", _terms(result["terms"])]
    parts += ["## Health", _health(result["health"])]
    if result["stability"] is not None:
        parts += ["## Stability", _bullets(_stability(result["stability"]))]
    if result["speed"] is not None:
        parts += ["## Speed", _bullets(_speed(result["speed"]))]
    if result["projections"]:
        rows = [[f"{entry['epochs']:g}", time_text(entry["seconds"])] for entry in result["projections"]]
        parts += ["Time for other numbers of epochs on the same machine:", _table(["epochs", "time"], rows)]
    if result["missing"]:
        parts += ["## Missing", _bullets(result["missing"])]
    parts += ["## How this was measured", result["protocol"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _status(result: dict[str, Any]) -> str:
    status = result["status"]
    if status["total_steps"] is None:
        return str(status["state"])
    return (
        f"{status['state']}, step {status['step']:,} of {status['total_steps']:,}, epoch {status['epoch']:.3g} of "
        f"{status['epochs']:g}"
    )


def _trend(knn: dict[str, Any]) -> str:
    if knn["gain"] is None:
        return "too few evaluations to tell whether it still improves"
    moved = f"{100 * knn['gain']:+.1f} points over the last third, noise {100 * knn['noise'] / 2:.1f}"
    return f"{'still rising' if knn['rising'] else 'no longer rising'} ({moved})"


def _problem(problem: dict[str, Any]) -> str:
    return f"**{'Problem' if problem['kind'] == 'bad' else 'Caution'}.** {problem['text']} {problem['advice'] or ''}".strip()


def _convergence(result: dict[str, Any]) -> str:
    lines = []
    knn, loss, rank = (result["convergence"][key] for key in ("knn", "loss", "rank"))
    if knn is None:
        lines.append("No online k-NN was recorded.")
    else:
        lines.append(
            f"Online k-NN: {percent(knn['first'])} at first, {percent(knn['last'])} at the end, at best {percent(knn['best'])} "
            f"(step {knn['best_step']:,}); {_trend(knn)}."
        )
    if loss is not None:
        slope = (
            "" if loss["change"] is None else f"; it changes by {loss['change']:+.1%} in a tenth of the run at the end"
        )
        lines.append(
            f"Loss: {number(loss['first'])} at first, {number(loss['last'])} at the end, at its lowest {number(loss['lowest'])}"
            f"{slope}. A falling loss alone does not show learning."
        )
    if rank is not None:
        lines.append(
            f"Effective rank of all levels together: {number(rank['first'])} at first, {number(rank['last'])} at the end."
        )
    return _bullets(lines)


def _terms(terms: list[dict[str, Any]]) -> str:
    rows = [
        [
            term["name"] + (" / chance" if term["over_chance"] else ""),
            number(term["first"]),
            number(term["lowest"]),
            number(term["last"]),
            "-" if term["rise"] is None else f"{term['rise']:.2f}",
        ]
        for term in terms
    ]
    return _table(["term", "first", "lowest", "last", "last / lowest"], rows)


def _health(health: dict[str, Any]) -> str:
    if health["light"] is None:
        return "No light was recorded."
    course = ", ".join(
        f"{part['light']} from step {part['from']:,} to {part['to']:,}"
        if part["from"] != part["to"]
        else f"{part['light']} at step {part['from']:,}"
        for part in health["course"][-12:]
    )
    judged = "" if health["recorded"] else " (judged here from losses and gradients; the run did not record it)"
    parts = [
        f"The light is **{health['light']}**{judged}. {'Last changes' if len(health['course']) > 12 else 'Course'}: {course}."
    ]
    if health["signs"]:
        rows = [
            [
                sign["worst"],
                sign["figure"],
                sign["where"] or "-",
                number(sign["value"]),
                number(sign["limit"]),
                f"{sign['first']:,} to {sign['last']:,}",
                "yes" if sign["now"] else "no",
            ]
            for sign in health["signs"]
        ]
        parts.append(_table(["light", "figure", "where", "worst value", "limit", "steps", "now"], rows))
    for action in health["actions"]:
        parts.append(f"- Step {action['step']:,}: {', '.join(action['actions']) or 'no action'}.")
    return "\n\n".join(parts)


def _stability(stable: dict[str, Any]) -> list[str]:
    lines = [
        f"Skipped updates: {stable['skipped']}" + ("; a loss or feature was not finite" if stable["not_finite"] else "")
    ]
    gradient = stable["gradient"]
    if gradient is not None:
        jumps = f"; jumps at steps {_steps(gradient['jumps'])}" if gradient["jumps"] else "; no jumps"
        lines.append(
            f"Gradient norm: median {number(gradient['median'])}, largest {number(gradient['largest'])} at step "
            f"{gradient['step']:,}{jumps}"
        )
    spikes = stable["loss_spikes"]
    lines.append(f"Loss spikes: {stable['number_of_spikes']}" + (f", at steps {_steps(spikes)}" if spikes else ""))
    resumed = stable["resumed"]
    lines.append(
        f"Resumed: {_many(len(resumed), 'time', 'times') or 'never'}"
        + (f", at steps {', '.join(map(str, resumed))}" if resumed else "")
    )
    if stable["rewinds"]:
        lines.append(f"Went back to an earlier checkpoint {_many(stable['rewinds'], 'time', 'times')}")
    return lines


def _speed(fast: dict[str, Any]) -> list[str]:
    rates, shares = fast["images_per_second"], fast["shares"]
    where = ", ".join(
        str(part)
        for part in (
            fast["device"],
            _many(fast["processes"], "process", "processes"),
            _many(fast["threads"], "thread", "threads"),
        )
        if part
    )
    lines = [
        f"{rates['median']:.0f} images/s ({rates['first']:.0f} at first, {rates['last']:.0f} at the end)"
        + (f" on {where}" if where else ""),
        f"{time_text(fast['seconds'])} so far: {percent(shares['training'])} training, {percent(shares['waiting_for_data'])} "
        f"waiting for data, {percent(shares['evaluation'])} online evaluation and health, {percent(shares['other'])} other",
    ]
    if fast["left"] is not None:
        lines.append(f"{time_text(fast['left'])} left, if it goes on")
    return lines


def _steps(points: list[dict[str, float]]) -> str:
    return ", ".join(f"{int(point['step']):,} (x {point['ratio']:.3g})" for point in points[:6])


def _many(count: int | None, one: str, several: str) -> str | None:
    """A number with its noun; None for none."""
    return f"{count} {one if count == 1 else several}" if count else None


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])

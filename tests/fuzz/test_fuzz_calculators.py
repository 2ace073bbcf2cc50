"""Every calculator, moved at random through its controls: a sound result, or words why not.

`make fuzz` tries 10 000 settings in all. A setting goes in as a learner sets it: an option of a
drop-down, a step of a slider or a typed number, a text pasted.
"""

import json
import math
import os
import re
import sys
import warnings

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sizing import calculators, units
from sizing.calculators.base import Calculator, Scale
from sizing.units import DATA

ALL = sorted(
    name
    for name in calculators.__all__
    if isinstance(getattr(calculators, name), type)
    and issubclass(getattr(calculators, name), Calculator)
)
EACH = max(10, int(os.environ.get("SIZING_FUZZ", 130)) // len(ALL))
SLOW = {"PlanDashboard": 10}  # it searches all plans of a cluster: a tenth of the others' settings
# A failure names its settings; to look for smaller ones would move a slow calculator for an hour.
AS_FOUND = (Phase.explicit, Phase.reuse, Phase.generate)
CONFIGS = sorted((DATA / "models").glob("*.json"))
# A figure that rounds to nothing, with its unit: "0.00 GB", "$0.0", "0 s".
NOTHING = re.compile(
    r"(?<![\d.,e+-])(?:[-−]?0(?:\.0+)?\s(?:[kMGTPEZY]?i?B|[kMGTPE]?FLOP(?:/s)?|s|ms|µs|min|h|days"
    r"|kWh|MWh|GWh|GPU-hours|tokens|tokens/s|t CO2e)\b|\$0(?:\.0+)?(?![\d.,]))"
)
NOT_A_NUMBER = re.compile(r"(?<![A-Za-z])(?:nan|inf|NaN|Infinity|None|NaT)(?![A-Za-z])")


def pasted():
    """What may be pasted: nothing, a config, a spoilt one, and no config at all."""
    whole = st.sampled_from(CONFIGS).map(lambda path: json.loads(path.read_text()))
    value = st.one_of(st.none(), st.integers(-2, 70_000), st.floats(), st.text(max_size=4))
    spoilt = whole.flatmap(
        lambda config: st.tuples(st.sampled_from(sorted(config)), value).map(
            lambda change: config | {change[0]: change[1]}
        )
    )
    return st.one_of(
        st.just(""), whole.map(json.dumps), spoilt.map(json.dumps), st.text(max_size=20)
    )


def values(control):
    """What a learner can set a control to."""
    if isinstance(control, Scale):
        steps = control.steps
        most = control.most if control.most is not None else 16 * max(steps)
        least = 0 if 0 in steps else 1 if control.whole else min(steps) / 16
        if control.whole:
            return st.one_of(st.sampled_from(steps), st.integers(int(least), int(most)))
        logarithm = st.floats(math.log(max(least, 1e-9)), math.log(most))
        typed = logarithm.map(lambda x: min(most, float(f"{math.exp(x):.3g}")))
        return st.one_of(st.sampled_from(steps), typed)
    if hasattr(control, "options"):
        return st.sampled_from([value for _, value in control.options])
    return pasted()


class Zeros:
    """The formatters of sizing.units, which note what they print for a true zero.

    Some results are kept by the calculators, so what was a true zero once stays noted.
    """

    NAMES = ("gb", "gib", "si", "count", "duration")

    def __init__(self):
        self.true: set[str] = set()
        self.false: list[str] = []

    def install(self, monkeypatch):
        for name in self.NAMES:
            original = getattr(units, name)
            watched = self._watched(original)
            for module in [m for n, m in sys.modules.items() if n.startswith("sizing")]:
                for attribute, value in list(vars(module).items()):
                    if value is original:
                        monkeypatch.setattr(module, attribute, watched)

    def _watched(self, original):
        def formatter(value, *args, **kwargs):
            text = original(value, *args, **kwargs)
            if value == 0:
                self.true.add(text.strip())
            elif NOTHING.fullmatch(text.strip()):
                self.false.append(f"{original.__name__}({value!r}) is {text!r}")
            return text

        return formatter


@pytest.fixture(scope="module", params=ALL)
def made(request):
    with pytest.MonkeyPatch.context() as patch:
        zeros = Zeros()
        zeros.install(patch)
        yield getattr(calculators, request.param)(), zeros


def texts(calculator) -> str:
    """All that a learner reads, without tags."""
    parts = [calculator._headline.value, calculator._changed.value, calculator._details.value]
    parts.append(calculator._picture.tooltip)
    return re.sub(r"<[^>]*>", " ¦ ", " ¦ ".join(parts)).replace("&lt;", "<")


def test_any_setting_has_a_sound_result_or_words(made):
    calculator, zeros = made
    share = max(2, EACH // SLOW.get(type(calculator).__name__, 1))

    @settings(max_examples=share, suppress_health_check=list(HealthCheck), phases=AS_FOUND)
    @given(data=st.data())
    def sound(data):
        move(calculator, zeros, data)

    sound()


def move(calculator, zeros, data):
    """One setting drawn, set and read."""
    zeros.false.clear()
    chosen = {
        name: data.draw(values(control), label=name)
        for name, control in calculator.controls.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # an overflow, a division by zero
        calculator.set(**chosen)
    where = f"{type(calculator).__name__}({calculator.settings})"
    said = texts(calculator)
    bundle = calculator._repr_mimebundle_()
    assert bundle["text/plain"].strip() and bundle["text/html"].strip()
    if calculator.error:
        assert len(calculator.error) > 10 and "Not possible." in said, where
        return
    result = calculator.current
    assert math.isfinite(result.value) and result.headline and result.caption, where
    assert calculator._picture.value[:4] == b"\x89PNG", where
    assert all(len(row) == len(result.columns) for row in result.rows), where
    assert not (found := NOT_A_NUMBER.search(said)), f"{where}: {_around(said, found)}"
    assert not zeros.false, f"{where}: {zeros.false}"
    for found in NOTHING.finditer(said):
        assert found[0].strip() in zeros.true, f"{where}: {_around(said, found)}"


def _around(text: str, found) -> str:
    return f"{found[0]!r} in {text[max(0, found.start() - 80) : found.end() + 40]!r}"

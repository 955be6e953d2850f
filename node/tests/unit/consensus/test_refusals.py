# SPDX-License-Identifier: Apache-2.0
"""Refused connections are logged, but not without end."""

from __future__ import annotations

import pytest

from holdfast.consensus.refusals import Refusals


def test_a_burst_is_logged_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    time = [100.0]
    refusals = Refusals(burst=3, rate=0.5, now=lambda: time[0])
    for number in range(10):
        refusals.note("n9", f"address {number}", "no reason")
    assert [record.fields["address"] for record in caplog.records] == ["address 0", "address 1", "address 2"]  # type: ignore[attr-defined]
    time[0] += 1.0
    refusals.note("n9", "still too early", "no reason")
    time[0] += 1.0
    refusals.note("n9", "the next", "no reason")
    fields = caplog.records[-1].fields  # type: ignore[attr-defined]
    assert fields == {"peer": "n9", "address": "the next", "reason": "no reason", "left_out": 8}
    time[0] += 1000.0
    for number in range(4):
        refusals.note("", str(number), "no reason")
    assert len(caplog.records) == 7

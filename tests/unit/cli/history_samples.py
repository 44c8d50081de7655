"""Reset histories for screens: of a card that works, one that wedged, and one that left."""

from __future__ import annotations

from vfio_contract.ledger import VM_CYCLE, VM_START, Outcome, ResetAttempt, Total
from vfio_contract.ledger_views import DeviceHistory
from vfio_contract.reset_report import report_resets

IDENTITY = "dsn-00-1b-21-ff-ff-5f-12-34.0"
ADDRESS = "0000:41:00.0"
BOOT = "0f1e2d3c-0000-4000-8000-000000000002"
RESET = f"reset-test of {ADDRESS}: answers as before, and the kernel did not complain"
WELL = "it answers, and the kernel did not complain"
SHORT = "it ended before that could be told"
LINE = f"[ 5012.123456] vfio-pci {ADDRESS}: not ready 65535ms after FLR; giving up"


class Rows:
    """Attempts, a minute apart."""

    def __init__(self) -> None:
        self.rows: list[ResetAttempt] = []

    def add(
        self,
        method: str,
        outcome: Outcome,
        evidence: str,
        *,
        took_ms: int | None = None,
        firmware: str = "F11",
        boot: str = BOOT,
    ) -> None:
        number = len(self.rows)
        self.rows.append(
            ResetAttempt(
                key=str(number),
                identity=IDENTITY,
                firmware=firmware,
                boot_id=boot,
                method=method,
                outcome=outcome,
                evidence=evidence,
                address=ADDRESS,
                duration_ms=took_ms,
                told_at_ms=1_795_000_000_000 + number * 60_000,
                firmware_text=f"BIOS {firmware} 11/06/2019, kernel 6.1.0-18-amd64",
            )
        )

    def vm(self, method: str, pid: int, why: str, outcome: Outcome, took_ms: int | None) -> None:
        started = f"VM train-9 (pid {pid}, started {pid / 2:.2f} s after boot) had it: {why}"
        self.add(method, outcome, started, took_ms=took_ms)


def proven() -> DeviceHistory:
    rows = Rows()
    rows.vm(VM_START, 4711, WELL, Outcome.SUCCESS, None)
    for number in range(9):
        rows.add("flr", Outcome.SUCCESS, RESET, took_ms=16 + 3 * number)
    rows.vm(VM_CYCLE, 5123, WELL, Outcome.SUCCESS, 1207)
    return report(rows, totals={"F11": Total(60, 0, 4)})


def wedged() -> DeviceHistory:
    rows = Rows()
    for number in range(5):
        rows.add("flr", Outcome.SUCCESS, RESET, took_ms=16 + number, firmware="F10", boot="b")
    rows.vm(VM_START, 4711, WELL, Outcome.SUCCESS, 1023)
    rows.vm(VM_CYCLE, 5123, WELL, Outcome.SUCCESS, 1207)
    rows.vm(VM_CYCLE, 5999, SHORT, Outcome.UNOBSERVED, None)
    rows.add("flr", Outcome.WEDGED, LINE)
    return report(rows)


def gone() -> DeviceHistory:
    rows = Rows()
    rows.add("bus", Outcome.FAILED, "a line \x1b[2Jwith tricks", boot="b")
    return report_resets(
        rows.rows,
        {},
        node="pve03",
        identity=IDENTITY,
        address="",
        gone=True,
        boot_id=BOOT,
        firmware="",
    )


def untried() -> DeviceHistory:
    return report(Rows())


def report(rows: Rows, totals: dict[str, Total] | None = None) -> DeviceHistory:
    return report_resets(
        rows.rows,
        totals or {},
        node="pve03",
        identity=IDENTITY,
        address=ADDRESS,
        gone=False,
        boot_id=BOOT,
        firmware="F11",
    )

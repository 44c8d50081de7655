"""The first transaction of a coordinator: the cluster's id, made once, and this start's epoch.

The epoch grows by one at each start, in one transaction that compares what was read, so that two
starts never share one. The fence of the embedded store is the epoch record's exact value: a later
start changes it, and whatever an earlier process still writes fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_contract.artifact import encode
from vfio_coordinator.state.keys import META_CLUSTER, META_EPOCH
from vfio_coordinator.state.records import ClusterRecord, EpochRecord
from vfio_coordinator.state.restore import read_record
from vfio_coordinator.store.interface import (
    Compare,
    KeyValue,
    ModRevisionIs,
    Put,
    Txn,
    ValueIs,
)


@dataclass(frozen=True, slots=True)
class Opening:
    """Commit `txn`; if it fails, another start came in between: read and open again."""

    txn: Txn
    cluster: ClusterRecord
    epoch: EpochRecord
    fence: Compare


def open_cluster(
    cluster: KeyValue | None, epoch: KeyValue | None, *, new_cluster_id: str, utc: str
) -> Opening:
    """What to write at start, from both keys as they stand. Raises RestoreError."""
    record = ClusterRecord(new_cluster_id, 1, utc)
    if cluster is not None:
        record = read_record(ClusterRecord, cluster)
    last = read_record(EpochRecord, epoch).epoch if epoch is not None else 0
    started = EpochRecord(last + 1, utc)
    value = encode(started)
    return Opening(
        txn=Txn(
            compares=(
                ModRevisionIs(META_CLUSTER, cluster.mod_revision if cluster else 0),
                ModRevisionIs(META_EPOCH, epoch.mod_revision if epoch else 0),
            ),
            ops=(
                *(() if cluster is not None else (Put(META_CLUSTER, encode(record)),)),
                Put(META_EPOCH, value),
            ),
        ),
        cluster=record,
        epoch=started,
        fence=ValueIs(META_EPOCH, value),
    )

"""The wire: versioned protobuf messages and gRPC stubs, generated and committed.

Nothing here is written by hand except the `.proto` files. It must never hold logic or
import a package of ours: `vfio_contract.codec` turns these messages into values.
"""

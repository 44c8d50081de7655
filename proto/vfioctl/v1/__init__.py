"""Version 1 of the wire protocol; see the `.proto` files of this folder for every field.

The `*_pb2*` modules are made by `tools/gen_proto.py` and must never be edited.
"""

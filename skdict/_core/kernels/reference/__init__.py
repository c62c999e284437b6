"""Every operation in plain torch, on any device: what the bodies of the devices must agree with.

Devices that have no body of their own for an operation run these.
"""

"""Several processes that train one dictionary: over the rows of a batch, or over the atoms.

A `Strategy` says how. All of the communication is here, on plain tensors; what is own code is the
merge of the largest pre-activations (`candidates`, `cut`) and two autograd functions
(`gradients`). The rest are collectives of torch.distributed (`ranks`).

One process has the strategy `ALONE`, whose collectives return what they are given.
"""

"""One model over several devices, as a plan: what each holds, computes and sends. Nothing here runs it (decision 0060)."""

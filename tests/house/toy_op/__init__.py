"""An op as docs/adding.md has it, outside `kernels/`: max(x, 0)^2, the activation of Primer."""

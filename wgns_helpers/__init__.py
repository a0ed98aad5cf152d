"""Confine a systemd service to a WireGuard tunnel: netns-up, netns-down, wg-up and wg-down."""

__version__ = "0.2.0"

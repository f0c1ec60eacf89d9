"""Pusher: the stock one, which also sees where a push of an earlier run was taken back."""

from components.pusher.component import Pusher

__all__ = ["Pusher"]

"""Message passing on any graph under any schedule."""

"""The automated alignment researcher: a loop of observing, deciding and acting, resumable at any point."""

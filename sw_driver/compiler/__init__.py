"""An integer network becomes a stream of instructions, with predicted cycles."""

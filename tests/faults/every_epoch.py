"""mepipe, but a resumable state is written after every epoch: a kill then nearly always finds one, or half of one."""

from mepipe_model import fold

assert fold.STATE_EVERY > 0
fold.STATE_EVERY = 0.0

if __name__ == "__main__":  # worker processes import this file too, and so write as many
    from mepipe.cli import main

    main()

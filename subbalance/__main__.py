"""`python -m subbalance`: the command line."""

from subbalance.command.main import main

if __name__ == "__main__":
    main()

"""`python -m genimg_lib` is `genimg`."""

from .cli import main

if __name__ == "__main__":
    main()

# A front for the commands that .ci/run calls. Use it inside the virtual environment: PATH=.venv/bin:$PATH make check
.PHONY: format check test wheel

format:
	ruff check --fix .
	ruff format .

check:
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo

test:
	python -m pytest

wheel:
	python -m pip wheel --no-deps --wheel-dir dist .

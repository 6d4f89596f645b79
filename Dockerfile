# One image for the API, the worker and the migrations; docker-compose.yml says which is which.
# The environment is built in a stage of its own, so that the image has no compiler and no build tools.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /srv/venv

# Before the code, so that a change of code installs nothing again.
COPY requirements.lock ./
RUN /srv/venv/bin/pip install --requirement requirements.lock \
    && /srv/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm

# The code is compiled below, so nothing is written at run time: the root file system may be read-only.
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/srv/venv/bin:$PATH
WORKDIR /srv/sub-balance
RUN useradd --system --no-create-home --uid 10001 --user-group subbalance

COPY --from=build /srv/venv /srv/venv
COPY app ./app
COPY subbalance ./subbalance
COPY lua ./lua
COPY sql ./sql
RUN python -m compileall -q app subbalance

USER 10001:10001
ENV HOST=0.0.0.0 PORT=8082 SUBBALANCE_LOG_FOLDER=none
EXPOSE 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import urlopen; urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health/live', timeout=2)"]
CMD ["python", "-m", "app.main"]

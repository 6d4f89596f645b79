# One image for the API, the worker and the migrations; docker-compose.yml says which is which.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/sub-balance

# Before the code, so that a change of code installs nothing again.
COPY requirements.lock ./
RUN pip install --requirement requirements.lock

COPY app ./app
COPY subbalance ./subbalance
COPY lua ./lua
COPY sql ./sql
RUN python -m compileall -q app subbalance && useradd --system --no-create-home --uid 10001 subbalance

USER subbalance
ENV HOST=0.0.0.0 PORT=8082
EXPOSE 8082
STOPSIGNAL SIGTERM
CMD ["python", "-m", "app.main"]

# Server and client of SplitCom: docs/install.md says how to build and run it.
FROM python:3.12-slim

# The index of the build of torch that is wanted, such as the one without CUDA; empty: pip's own.
ARG TORCH_INDEX=""
# Extras of the package, or none; "hub" reads Parquet files and data sets on the hub.
ARG EXTRAS="hub"

RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.6"
COPY pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN pip install --no-cache-dir "/source${EXTRAS:+[$EXTRAS]}" && rm -r /source \
    && useradd --uid 1000 --create-home splitcom && install --directory --owner splitcom /data

USER splitcom
WORKDIR /data
EXPOSE 7443
# Python as the first process of a container is deaf to SIGTERM.
STOPSIGNAL SIGINT
ENTRYPOINT ["splitcom"]
CMD ["--help"]

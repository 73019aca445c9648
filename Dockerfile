# One image for every role: the command decides which (serve, gateway, worker, migrate, …).

FROM rust:1.95-slim-bookworm AS build
# cmake and a C compiler build the TLS library and SQLite.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends cmake g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package everpost \
    && strip --strip-debug -o /usr/local/bin/everpost target/release/everpost

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Everpost" \
      org.opencontainers.image.description="A durable event processor for real-time applications" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /usr/local/bin/everpost /usr/local/bin/everpost
COPY LICENSE /usr/share/doc/everpost/LICENSE

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
# The embedded engine's files and generated secrets; the distributed engine keeps nothing here.
ENV EVERPOST_DATA_DIR=/data \
    EVERPOST_LOG_FORMAT=json
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/everpost"]
CMD ["serve"]

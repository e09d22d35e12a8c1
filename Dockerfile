# kairos-init as an image: one static file, to be bind-mounted or copied by other Dockerfiles.
#
#   docker build -t kairos-init .
#   RUN --mount=from=kairos-init,src=/kairos-init,dst=/kairos-init /kairos-init ...

FROM rust:1-alpine AS build
# gcc, make and headers: zstd and liblzma are built from their C sources.
RUN apk add --no-cache build-base
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY kmod-db kmod-db
# The manifest names tests and benches; only the program is built.
COPY tests/it/main.rs tests/it/main.rs
COPY benches benches
RUN cargo build --release --locked --bin kairos-init \
 && cp target/*/release/kairos-init /kairos-init

FROM scratch
COPY --from=build /kairos-init /kairos-init
ENTRYPOINT ["/kairos-init"]

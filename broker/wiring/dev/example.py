"""A scope map to begin with."""

MAP = """\
version: 1
environment: dev                # dev, test, local, … : the dev broker serves no other
trust_domain: dev.local

workloads:                      # who: every step called "load", of any workflow
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load"}

scopes:                         # what: as in production, and minted as stand-ins
  orders-db:
    vault: {role: orders-ro, read: database/creds/orders-ro, attributes: {host: localhost, port: 5432, database: orders}}
    ttl: 10m
    tier: low
  api-key:                      # or by hand, for the dev broker alone
    dev: {kind: values, values: {api_key: dev-key}}
    tier: low

grants:                         # who may have what
  nightly: {workloads: [load], workflows: [nightly], scopes: [orders-db, api-key]}

tests:
  - {as: "spiffe://dev.local/workflow/nightly/step/load", ask: orders-db, expect: allow}
  - {as: "spiffe://dev.local/workflow/hourly/step/load", ask: orders-db, expect: deny}
"""

"""From a start to ordered parts: loading, cutting, surgery, ledger."""

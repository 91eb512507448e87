"""From a base model to ordered blocks: loading, partition, surgery, ledger."""

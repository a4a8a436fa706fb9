"""Training one stage: batches, the DeepSpeed engine, the loop, selection, the state a killed run goes on from."""

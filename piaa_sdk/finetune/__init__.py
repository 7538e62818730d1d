"""The whole network in torch: the only room of the SDK that imports it (extra ``finetune``)."""

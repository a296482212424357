"""Configs of tiny runs, for tests of what reads them."""

__all__ = ["write_config"]

CONFIG = """
model:
  class_path: models.systems.{cls}
  init_args:
    prior: gaussian
    latent_dim: 2
    network: {network}
    weight: {weight}
{more}
data:
  class_path: models.data.{data}
  init_args:
    batch_size: 100
trainer:
  max_epochs: {epochs}
"""


def write_config(
    folder, name, cls, weight, network="mlp", data="EightGaussians", epochs=2, more=()
):
    """Write ``<name>.yaml`` into a folder."""
    more = "\n".join(f"    {line}" for line in more)
    settings = dict(cls=cls, weight=weight, network=network, data=data, epochs=epochs, more=more)
    (folder / f"{name}.yaml").write_text(CONFIG.format(**settings))

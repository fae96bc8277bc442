"""MST-Distill: the three stages in order (`run_stages`), and the modules that they use.

The method is that of Li et al., "MST-Distill: Mixture of Specialized Teachers for Cross-Modal
Knowledge Distillation", ACM MM 2025, arXiv 2507.07015. Nothing here depends on Kedro or MLflow.
"""

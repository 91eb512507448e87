"""What joins the stages: stages never import each other, `flow` knows their order."""

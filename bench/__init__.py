"""What the tunnel costs, and what it does to video on a bad network; each module runs alone."""
